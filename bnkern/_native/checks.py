"""Common cases of the checks, in a tenth of a microsecond; False says no more than that the long way must be gone."""

from bnkern._native._cpu import usual_output as output  # noqa: F401
from bnkern._native._cpu import usual_running as running  # noqa: F401
from bnkern._native._cpu import usual_twin as twin  # noqa: F401
from bnkern._native._cpu import usual_vectors as vectors  # noqa: F401
