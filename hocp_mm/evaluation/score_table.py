"""Print scores as one plain table."""

from collections.abc import Mapping

COLUMNS = ("ccc", "pcc", "rmse", "sagr")
ROWS = ("valence", "arousal", "mean")


def score_table(metrics: Mapping[str, float], prefix: str = "affect") -> str:
    """Lay out the values of `AffectMetric`.

    Args:
        metrics: Values by key, ``{prefix}/{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``; others are ignored.
        prefix: First part of the keys.

    Returns:
        Four lines without a trailing newline; a fifth with accuracy and F1 where expressions were scored.

    Raises:
        KeyError: If a value is absent.

    Example:
        >>> values = {f"affect/{c}_{r}": 0.5 for c in ("ccc", "pcc", "rmse", "sagr") for r in ROWS}
        >>> print(score_table(values))
                     CCC     PCC    RMSE    SAGR
        valence    0.500   0.500   0.500   0.500
        arousal    0.500   0.500   0.500   0.500
        mean       0.500   0.500   0.500   0.500
    """
    lines = [" " * 8 + "".join(f"{column.upper():>8}" for column in COLUMNS)]
    for row in ROWS:
        cells = "".join(f"{metrics[f'{prefix}/{column}_{row}']:8.3f}" for column in COLUMNS)
        lines.append(f"{row:<8}{cells}")
    if f"{prefix}/expression_accuracy" in metrics:
        accuracy, f1 = (metrics[f"{prefix}/expression_{name}"] for name in ("accuracy", "f1"))
        lines.append(f"expression: accuracy {accuracy:.3f}, mean F1 {f1:.3f}")
    return "\n".join(lines)
