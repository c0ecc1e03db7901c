"""Mistakes that a type checker finds before they run; behind each, the code of the error that is expected."""

import fmfast
from fmfast import BayesianFMRegressor, FMClassifier, FMRegressor

FMRegressor(n_factors="8")  # error: arg-type
FMRegressor(8, 100)  # error: call-arg arg-type
FMRegressor(factors=8)  # error: call-arg
FMRegressor().fit([[1.0]])  # error: call-arg
FMRegressor().fit([[1.0]], [1.0], eval_set=[1.0])  # error: arg-type
FMRegressor().predict_proba([[1.0]])  # error: attr-defined
FMClassifier().save(3.5)  # error: arg-type
text: str = FMRegressor().predict([[1.0]])  # error: assignment
mean, std = BayesianFMRegressor().predict([[1.0]], return_std="yes")  # error: call-overload
fmfast.fit([[1.0]])  # error: attr-defined
fmfast.show_config("xml")  # error: call-overload
fmfast.open_dataset("rows.fmd", memory="1 GB")  # error: arg-type
