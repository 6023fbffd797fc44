"""Whether a package is installed, in a version that will do."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement


def fault(requirement: str) -> str | None:
    """What is wrong with a requirement such as "kronfluence>=1.0", as `needs …`; None where it is met.

    Raises:
        packaging.requirements.InvalidRequirement: it cannot be read.
    """
    wanted = Requirement(requirement)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"needs the package {wanted.name}, which is not installed"
    if not wanted.specifier.contains(found, prereleases=True):
        return f"needs {requirement}, and {wanted.name} {found} is installed"
    return None
