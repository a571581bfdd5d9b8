"""Videos that a network labelled (see `hocp_mm.apis.teaching`)."""
