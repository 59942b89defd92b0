"""As a package is whose own requirements are gone."""

import a_module_that_nobody_has  # noqa: F401
