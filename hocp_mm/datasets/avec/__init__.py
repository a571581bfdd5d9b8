"""The chats of SEWA as the AVEC challenges label them."""
