"""One module a command: parse, call the function of the same name (which is why the imports are inside), print."""
