"""Frame features: made once, stored, and refused where they do not fit."""
