"""What the command ``hocp`` does, one file each; `hocp_mm.commands.entry` names them all."""
