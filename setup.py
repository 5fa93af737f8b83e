import sysconfig

from setuptools import setup

# One wheel serves every CPython from 3.10 on; a free-threaded one has no stable ABI to build it for.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    options={"bdist_wheel": {} if free_threaded else {"py_limited_api": "cp310"}},
)
