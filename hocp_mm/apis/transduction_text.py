"""A verification of transduction as text and as a file."""

from collections import Counter
from pathlib import Path

from hocp_mm.apis.transduction_report import LIMIT, Verification
from hocp_mm.files import write_rows


def text(result: Verification, verbose: bool = False) -> str:
    """Render a verification for a terminal.

    Args:
        result: What :func:`verify_timm` returned.
        verbose: Name all layers.

    Returns:
        Several lines; the last one is ``PASS`` or ``FAIL``.
    """
    kinds = ", ".join(f"{n} {k}" for k, n in sorted(Counter(result.kept.values()).items())) or "none"
    lines = [
        result.title,
        "",
        f"layers        {len(result.ranks)} HO-CP, {len(result.temporal)} with a temporal factor; "
        f"{len(result.kept)} convolutions kept ({kinds})",
        f"frame-wise    error {result.framewise:.1e} against the 2-D network on each frame: "
        f"{_verdict(result.framewise_ok)}",
    ]
    if result.averages and not result.framewise_ok:
        lines.append(
            "              (temporal_init 'uniform' averages frames: no frame is what the 2-D network makes of it)"
        )
    if result.leaks is None:
        lines.append("causality     nothing to check: no temporal factor")
    else:
        future, clips, length, reach = (f"{value:.1e}" for value in result.leaks)
        lines.append(
            f"causality     random causal taps: later frames {future}, other clips {clips}, other lengths {length} "
            f"(the taps themselves {reach}): {_verdict(result.leaks_ok)}"
        )
    temporal, others = result.untouched
    lines.append(
        f"gradients     {len(temporal)} temporal factors and {len(others)} parameters without: "
        f"{_verdict(result.gradients_ok)}"
    )
    if "zero" in temporal.values():
        lines.append("              (zero, too, behind branches that the weights scale by 0)")
    lines += [f"  {name} ({why})" for name, why in temporal.items()] + [f"  {name}" for name in others]
    lines.append(_decomposition(result))
    if result.kernels:
        width = max(map(len, result.kernels))
        lines += ["", f"  {'kernel':<{width}}  {'rank':>5}  relative error"]
        lines += [f"  {k:<{width}}  {result.ranks[k]:>5}  {_error(error)}" for k, error in result.kernels.items()]
    if verbose:
        temporal = set(result.temporal)
        lines += ["", *(f"  HO-CP{' + time' if n in temporal else ''}: {n}" for n in result.ranks)]
        lines += [f"  dense + time: {name}" for name in result.temporal if name not in result.ranks]
        lines += [f"  kept {kernel}: {name}" for name, kernel in result.kept.items()]
    return "\n".join([*lines, "", f"{_verdict(result.ok)} (limit of all errors that should be 0: {LIMIT:.0e})"])


def _decomposition(result: Verification) -> str:
    if result.stages is None:
        return "decomposition the weights are in CP form already: no dense network to compare with"
    stages = ", ".join(map(_error, result.stages))
    spans = f"{min(result.kernels.values()):.1e} to {max(result.kernels.values()):.1e}" if result.kernels else "none"
    return f"decomposition errors of kernels {spans}; of the features of each stage against timm's network {stages}"


def write_csv(result: Verification, path: str | Path) -> Path:
    """Write every number in a line of its own: quantity, layer or stage, rank, value.

    Returns:
        The path; its folder is made.
    """
    path = Path(path)
    rows: list[tuple[str, str | int, int | str, float]] = [("frame-wise error", "", "", result.framewise)]
    rows += [(f"leak: {k}", "", "", v) for k, v in (result.leaks._asdict() if result.leaks else {}).items()]
    rows += [("kernel error", name, result.ranks[name], error) for name, error in result.kernels.items()]
    rows += [("feature error", stage, "", error) for stage, error in enumerate(result.stages or [])]
    write_rows(path, [("quantity", "where", "rank", "value"), *rows])
    return path


def _verdict(ok: bool) -> str:
    return "PASS" if ok else "FAIL"


def _error(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"
