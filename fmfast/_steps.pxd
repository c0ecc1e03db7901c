# cython: language_level=3, cdivision=True
"""Stochastic solvers: how one gradient moves the parameters of one feature.

A solver is a tag type in `Solver` with its branch in `step_weight` and in `step_factors`, and the
sizes of its state; `if Solver is Sgd` is decided by the compiler, which makes one specialised loop
of each. The state of a weight stands right behind it, that of the factors behind that (see
`fmfast.table`).
"""
from libc.math cimport fabs, sqrt

from fmfast._losses cimport Loss

# FTRL's beta: learning_rate / beta is the step while nothing is known of a coordinate.
cdef enum:
    FTRL_BETA = 1

ctypedef fused floating:  # parameters
    float
    double

ctypedef fused scalar_t:  # w_j (as the table) or w0 (always double)
    float
    double


# Solvers: tags without content; `if Solver is Sgd` is decided by the compiler.
cdef struct Sgd:
    char tag

cdef struct AdaGrad:
    char tag

cdef struct Ftrl:
    char tag

ctypedef fused Solver:
    Sgd
    AdaGrad
    Ftrl

cdef enum SolverCode:
    SGD = 0
    ADAGRAD = 1
    FTRL = 2


cdef struct Settings:
    Py_ssize_t n_factors
    Loss loss
    double learning_rate
    double reg_w
    double reg_V
    double l1_w
    Py_ssize_t prefetch_nnz     # nonzeros between the prefetch of a row and its use; 0: `prefetch_distance`


cdef inline scalar_t ftrl_moved(
    scalar_t theta,
    scalar_t g,                 # IN     gradient without regularisation
    scalar_t* z,                # INOUT
    scalar_t* n,                # INOUT
    scalar_t l1,
    scalar_t l2,
    const Settings* settings,
) noexcept nogil:
    """FTRL-Proximal for one coordinate (McMahan et al. 2013, algorithm 1); returns the new theta.

        sigma = (sqrt(n + g^2) - sqrt(n)) / alpha;   z += g - sigma theta;   n += g^2
        theta = 0 if |z| <= l1 else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)

    theta is a function of (z, n) alone. A coordinate that has not moved yet (n = 0) gets the z that
    belongs to its theta, so that a random start is kept.
    """
    cdef scalar_t alpha = <scalar_t>settings.learning_rate
    cdef scalar_t beta = <scalar_t>FTRL_BETA
    cdef scalar_t old_root = <scalar_t>sqrt(n[0])
    cdef scalar_t start = z[0] if n[0] > 0 else -theta * (beta / alpha + l2)
    cdef scalar_t new_n = n[0] + g * g
    cdef scalar_t new_root = <scalar_t>sqrt(new_n)
    cdef scalar_t new_z = start + g - (new_root - old_root) / alpha * theta
    cdef scalar_t shrunk = <scalar_t>fabs(new_z) - l1
    z[0] = new_z
    n[0] = new_n
    if shrunk <= 0:
        return 0
    return (-shrunk if new_z > 0 else shrunk) / ((beta + new_root) / alpha + l2)


cdef inline void step_weight(
    Solver* solver,
    scalar_t* w,                # INOUT  the weight; behind it, its state
    double gradient,            # IN     of the weighted loss, without regularisation
    double weight,              # IN     the sample's weight
    double l1,                  # IN     L1 strength, ftrl only
    double l2,                  # IN     L2 strength
    const Settings* settings,
) noexcept nogil:
    """Move one weight (w_j, or w0 with l1 = l2 = 0) against its gradient.

        sgd      w -= learning_rate * g
        adagrad  G += g^2;  w -= learning_rate / sqrt(G) * g      (Duchi, Hazan, Singer 2011)
        ftrl     see `ftrl_moved`; state z, n
    with g = gradient + weight * l2 * w for the first two.
    """
    cdef scalar_t g = <scalar_t>gradient
    if Solver is Sgd:
        g += <scalar_t>(weight * l2) * w[0]
        w[0] -= <scalar_t>settings.learning_rate * g
    elif Solver is AdaGrad:
        g += <scalar_t>(weight * l2) * w[0]
        w[1] += g * g
        w[0] -= <scalar_t>settings.learning_rate / <scalar_t>sqrt(w[1]) * g
    elif Solver is Ftrl:
        w[0] = ftrl_moved(w[0], g, &w[1], &w[2], <scalar_t>l1, <scalar_t>l2, settings)


cdef inline void step_factors(
    Solver* solver,
    floating* v,                # INOUT  (n_factors,)
    floating* state,            # INOUT  state of v
    const floating* s,          # IN     (n_factors,) factor sums of the sample
    Py_ssize_t n_factors,
    floating x,                 # IN     x_j
    floating dloss_x,           # IN     weight * dloss * x_j
    floating weight,            # IN     the sample's weight
    const Settings* settings,
) noexcept nogil:
    """Move the factors of one feature against their gradient

        g_f = dloss x_j (s_f - v_f x_j) + reg_V v_f = dloss_x s_f + decay v_f

        sgd      v -= learning_rate * g
        adagrad  G += sum_f g_f^2;  v -= learning_rate / sqrt(G) * g
                 (one accumulator per row: half the memory traffic of one per element, and
                 the best learning rate does not depend on n_factors)
        ftrl     each coordinate by `ftrl_moved`, without L1; state z (n_factors), n (n_factors)
    """
    cdef Py_ssize_t f
    cdef floating g, rate
    cdef floating total = 0
    cdef floating reg_V = <floating>settings.reg_V
    cdef floating decay = weight * reg_V - dloss_x * x
    if Solver is Sgd:
        rate = <floating>settings.learning_rate
        for f in range(n_factors):
            v[f] -= rate * (dloss_x * s[f] + decay * v[f])
    elif Solver is AdaGrad:
        for f in range(n_factors):
            g = dloss_x * s[f] + decay * v[f]
            total += g * g
        if n_factors > 0:
            state[0] += total
            rate = <floating>settings.learning_rate / <floating>sqrt(state[0])
            for f in range(n_factors):
                v[f] -= rate * (dloss_x * s[f] + decay * v[f])
    elif Solver is Ftrl:
        for f in range(n_factors):
            g = dloss_x * (s[f] - v[f] * x)
            v[f] = ftrl_moved(v[f], g, &state[f], &state[n_factors + f], <floating>0, reg_V, settings)


cdef inline Py_ssize_t weight_state_size(Solver* solver) noexcept nogil:
    if Solver is AdaGrad:
        return 1
    elif Solver is Ftrl:
        return 2
    return 0


cdef inline Py_ssize_t factor_state_size(Solver* solver, Py_ssize_t n_factors) noexcept nogil:
    if Solver is AdaGrad:
        return 1
    elif Solver is Ftrl:
        return 2 * n_factors
    return 0
