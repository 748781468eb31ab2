"""Tools of the fault tests: processes killed at a chosen instant, limited, watched, fed damaged and hostile files."""
