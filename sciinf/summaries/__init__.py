"""From data to features: standardisation, and one summary network per kind of observable."""
