"""quantpress turns a checkpoint into a measured release of GGUF files.
