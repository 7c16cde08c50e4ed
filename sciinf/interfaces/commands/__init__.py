"""What the command line needs beside the verbs: strings to objects, users' files, provenance."""
