"""Turns the taps on in Python programs below `trajrec capture`, `rerun` and `whatif`.

Python imports this module when it starts, because its folder is on PYTHONPATH. The module of the
same name that it hides, if there is one, is imported as well.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _own_folder() -> str:
    return os.path.dirname(os.path.abspath(__file__))


def _turn_on() -> None:
    address = os.environ.get("TRAJREC_PROXY", "")
    is_guarded = "TRAJREC_STAND_IN" in os.environ
    # Older ones go by the proxy alone, which the environment variables name.
    if not (address or is_guarded) or sys.version_info < (3, 11):
        return
    if importlib.machinery.PathFinder.find_spec("trajrec") is None:
        # The program has an environment of its own. Only this package is added, not its neighbours.
        package = os.path.dirname(os.path.dirname(_own_folder()))
        spec = importlib.util.spec_from_file_location(
            "trajrec",
            os.path.join(package, "__init__.py"),
            submodule_search_locations=[package],
        )
        if spec is None or spec.loader is None:
            return
        module = importlib.util.module_from_spec(spec)
        sys.modules["trajrec"] = module
        spec.loader.exec_module(module)
    if is_guarded:
        from trajrec.proxies import guard

        guard.install()
    else:
        from trajrec.proxies import remote

        remote.install(address, is_rerun=os.environ.get("TRAJREC_PROXY_MODE") != "record")


def _import_hidden() -> None:
    own = sys.modules.pop(__name__, None)
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _own_folder()]
    try:
        __import__(__name__)
    except ImportError as exc:
        if exc.name != __name__:
            raise
    finally:
        if own is not None:
            sys.modules.setdefault(__name__, own)


# Not if it is imported as a module of the package, by a tool that looks at all modules.
if __name__ == "sitecustomize":
    try:
        _turn_on()
    except Exception as exc:
        # The program runs on; what goes by the environment variables is recorded.
        print(f"trajrec: the taps are off in this Python program: {exc!r}", file=sys.stderr)
    _import_hidden()
