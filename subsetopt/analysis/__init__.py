"""What is asked of a finished minimum: spectrum, verification, effective ratio, leave-one-out."""
