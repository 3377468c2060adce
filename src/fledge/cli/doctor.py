"""fledge doctor: what this machine has, what is missing and how to get it."""

from __future__ import annotations

from fledge.cli.options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: processor, memory, dtype, runtime, and what is not installed.

    Example: fledge doctor
    """
    from fledge.cli.output import emit, megabytes, say
    from fledge.model.process import prepare_process

    prepare_process()
    from fledge.recipes.inspect import inspect_machine

    found = inspect_machine()
    if as_json:
        emit(found)
        return
    say(f"fledge   {found['version']}, Python {found['python']}")
    say(f"runtime  {found['runtime']}")
    say(f"torch    {found['torch'] or 'not installed: training needs it'}")
    say(f"memory   {megabytes(found['ram_free_bytes'])} free of {megabytes(found['ram_bytes'])}")
    say(f"threads  {found['threads']}")
    if found["dtype"]:
        rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in found["gemm_gflops"].items())
        say(f"dtype    {found['dtype']}: {found['dtype_reason']}")
        say(f"speed    {rates}")
    for part in found["missing"]:
        say(f"missing  {part['extra']}: {part['why']}. Install: {part['install']}")
