"""DKIM keys and DNS together: keys are rotated, withdrawn, and compared with their records."""
