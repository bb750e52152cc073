"""What runs in a Ray process: plain classes, the ports between them, and a thin shell around each."""
