"""How good a policy is, and how sure of it one can be: returns over episodes and seeds, and their statistics."""
