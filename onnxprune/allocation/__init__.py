"""How much each weight may lose: its rate and distortion, and how far its noise reaches."""
