"""Apply the work-arounds when this module is imported, for tools that are not ours.

A stock MMAction2 script runs on the published wheel with ``custom_imports = dict(imports=['hocp_mm.compat.auto'])`` in
its config. Our own tools call ``apply()`` themselves.
"""

from hocp_mm.compat.workarounds import apply

APPLIED = apply()
