"""The classifier that judges drawn images."""
