"""Tools of the fault tests: kill a process at a chosen instant, limit it, watch it, feed it damaged and hostile files."""
