"""Read the config that mmengine writes into a checkpoint, without executing it.

``Config.fromstring`` runs the text as Python, and a name like ``os.system`` as a model's ``type`` would be
imported and called; a downloaded weight file must not be able to do either. What ``Config.pretty_text`` writes
is literals and ``dict(...)`` only, so nothing is lost by accepting nothing else.
"""

import ast
from typing import Any, NoReturn

from mmengine.config import Config

from hocp_mm.errors import CheckpointError

# Packages whose classes a recorded model may name; a path into torch must lead to a layer.
_TRUSTED = ("hocp_mm", "mmaction", "mmcv", "mmengine")
_TRUSTED_PATH = "torch.nn."


def read_recorded_config(text: str, source: str) -> Config:
    """Parse the text of a config.

    Args:
        text: Assignments of literals and ``dict(...)`` calls, as ``Config.pretty_text`` writes them.
        source: Name of the checkpoint, for error texts.

    Returns:
        The config.

    Raises:
        CheckpointError: If the text is anything else, or its model names a class outside OpenMMLab, this package
            and ``torch.nn``.

    Example:
        >>> read_recorded_config("model = dict(type='hocp_mm.AffectHead', in_channels=8)", "a.pth").model.in_channels
        8
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise CheckpointError(
            f"{source}: the recorded config is not Python (line {error.lineno}); give the config itself."
        ) from error
    values: dict[str, Any] = {}
    for statement in statements:
        if not (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(name := statement.targets[0], ast.Name)
        ):
            _refuse(source, statement)
        values[name.id] = _evaluate(statement.value, source)
    _check_types(values.get("model"), source)
    return Config(values)


def _evaluate(node: ast.expr, source: str) -> Any:
    """Return the value of a literal or a ``dict(...)`` of literals."""
    match node:
        case ast.Constant(value):
            return value
        case ast.Name("inf" | "nan" as name):  # how repr writes these floats
            return float(name)
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand, source)
        case ast.Call(ast.Name("dict"), [], keywords) if all(k.arg for k in keywords):
            return {str(k.arg): _evaluate(k.value, source) for k in keywords}
        case ast.Call(ast.Name("dict"), [ast.Dict() as pairs], []):  # mmengine's way with keys that are no names
            return _evaluate(pairs, source)
        case ast.Dict(keys, values) if all(keys):
            pairs = zip(keys, values, strict=True)
            return {_evaluate(key, source): _evaluate(value, source) for key, value in pairs if key is not None}
        case ast.List(items):
            return [_evaluate(item, source) for item in items]
        case ast.Tuple(items):
            return tuple(_evaluate(item, source) for item in items)
        case ast.Set(items):
            return {_evaluate(item, source) for item in items}
        case _:
            return _refuse(source, node)


def _check_types(value: Any, source: str) -> None:
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and "." in kind:
            trusted = kind.startswith(_TRUSTED_PATH) or kind.partition(".")[0] in _TRUSTED
            if not trusted:
                raise CheckpointError(
                    f"{source}: the recorded config may build classes of {', '.join(_TRUSTED)} and torch.nn only, "
                    f"got {kind!r}; if you trust it, give the config itself."
                )
    if isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            _check_types(item, source)


def _refuse(source: str, node: ast.AST) -> NoReturn:
    raise CheckpointError(
        f"{source}: the recorded config must hold values only, got code in line {getattr(node, 'lineno', '?')}; "
        "give the config itself."
    )
