class SlurmArray:
    def __init__(self, words) -> None:
        pass
