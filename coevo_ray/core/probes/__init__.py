"""Linear classifiers on features: fitting, calibration, and doubt about labels."""
