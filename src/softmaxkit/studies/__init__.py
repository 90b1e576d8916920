"""What joins the parts: comparisons of all methods in one model."""
