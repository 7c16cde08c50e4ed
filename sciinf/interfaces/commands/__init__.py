"""Parts of the command line: strings made into objects, users' files, the workflow, and provenance."""
