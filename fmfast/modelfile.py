def save_model(*a): raise NotImplementedError
def load(path): raise NotImplementedError
