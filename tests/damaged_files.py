"""Files as a crash, or a hand, may leave them."""


def damage(path, how):
    """Cut the file in half ("cut"), change a bit in its middle ("changed"), or remove it."""
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "cut":
        path.write_bytes(content[:middle])
    elif how == "changed":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()
