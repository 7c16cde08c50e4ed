"""Whether simulator, network, model and answer are to be believed.

Every final subclass of `Diagnostic` in this folder is asked of every answer (`discovery`), and gives findings. The
verdict follows from the findings alone (`core.verdict`), so that whatever reads an answer judges it anew.
"""
