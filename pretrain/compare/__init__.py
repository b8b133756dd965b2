"""Does it pay? Runs side by side, each method against from-scratch runs with a schedule of their own."""
