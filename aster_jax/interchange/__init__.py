"""Episodes in the formats that others read; each is a pure function of an episode's record."""
