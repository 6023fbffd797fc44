"""Whether a package is installed, in a version that will do."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from bench.errors import InputError


def fault(requirement: str) -> str | None:
    """What is wrong with a requirement such as "kronfluence>=1.0", as `needs …`; None where it is met.

    Raises:
        InputError: it cannot be read.
    """
    wanted = _read(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None  # not needed on this system
    found = installed(requirement)
    if found is None:
        return f"needs the package {wanted.name}, which is not installed"
    try:
        fits = wanted.specifier.contains(found, prereleases=True)
    except InvalidVersion:  # a version that is no version cannot be compared
        fits = not wanted.specifier
    return None if fits else f"needs {wanted.name}{wanted.specifier}, and {wanted.name} {found} is installed"


def installed(requirement: str) -> str | None:
    """The version that is installed of the package that a requirement names; None where none is.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found: str | None = version(_read(requirement).name)
    except PackageNotFoundError:
        return None
    return found or None  # a damaged installation has metadata without a version


def remedy(requirement: str, extra: str) -> str:
    """What to type where it is missing, given the extra of this project that installs it, if one does."""
    what = f"ldsbench[{extra}]" if extra else requirement
    return f"pip install {what!r}"


def _read(requirement: str) -> Requirement:
    try:
        return Requirement(requirement)
    except InvalidRequirement as error:
        raise InputError(f"the package {requirement!r} that it needs cannot be read: write 'name>=1.0'") from error
