# cython: language_level=3, cdivision=True
"""Stochastic solvers: how one gradient moves the parameters of one feature.

A solver is a tag type in `Solver` with its branch in `step_weight` and in `step_factors`, and the
sizes of its state; `if Solver is Sgd` is decided by the compiler, which makes one specialised loop
of each. The state of a weight stands right behind it, that of the factors behind that (see
`fmfast.table`).
"""
from libc.math cimport sqrt

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
    scalar_t g,                 # IN     gradient
    scalar_t* r,                # INOUT
    scalar_t* n,                # INOUT
    scalar_t l1,
    const Settings* settings,
) noexcept nogil:
    """FTRL-Proximal for one coordinate (McMahan et al. 2013, algorithm 1); returns the new theta.

    The paper stores z = sum g - sum sigma theta, of which theta is a function. Here theta is stored and
    instead of z what theta does not tell of it, r = clip(z, -l1, l1), which gives the same numbers

        n += g^2;  D = (beta + sqrt(n)) / alpha;  z = r + g - D theta;  r = clip(z, -l1, l1)
        theta = (r - z) / D

    needs no z where l1 = 0, where theta -= g / D, and lets alpha and l1 change from epoch to epoch.
    """
    cdef scalar_t new_n = n[0] + g * g
    cdef scalar_t scale = (<scalar_t>FTRL_BETA + <scalar_t>sqrt(new_n)) / <scalar_t>settings.learning_rate
    cdef scalar_t step = r[0] + g
    cdef scalar_t z = step - scale * theta
    # Written so that the compiler makes a minimum and a maximum of it: branches would be mispredicted.
    cdef scalar_t clipped = z if z < l1 else l1
    clipped = clipped if clipped > -l1 else -l1
    n[0] = new_n
    r[0] = clipped
    # (r - z) / D without rounding D theta / D; but exactly 0 where it is 0
    return 0 if clipped == z else theta - (step - clipped) / scale


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
        ftrl     see `ftrl_moved`; state r, n
    with g = gradient + weight * l2 * w.
    """
    cdef scalar_t g = <scalar_t>gradient + <scalar_t>(weight * l2) * w[0]
    if Solver is Sgd:
        w[0] -= <scalar_t>settings.learning_rate * g
    elif Solver is AdaGrad:
        w[1] += g * g
        w[0] -= <scalar_t>settings.learning_rate / <scalar_t>sqrt(w[1]) * g
    elif Solver is Ftrl:
        w[0] = ftrl_moved(w[0], g, &w[1], &w[2], <scalar_t>l1, settings)


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
        ftrl     n_f += g_f^2;  v_f -= learning_rate / (beta + sqrt(n_f)) * g_f
                 (`ftrl_moved` without L1, so without r)
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
            g = dloss_x * s[f] + decay * v[f]
            state[f] += g * g
            v[f] -= <floating>settings.learning_rate * g / (<floating>FTRL_BETA + <floating>sqrt(state[f]))


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
        return n_factors
    return 0
