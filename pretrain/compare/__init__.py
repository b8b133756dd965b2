"""Does a method pay? Compares finished runs with from-scratch baselines, each trained with a full schedule."""
