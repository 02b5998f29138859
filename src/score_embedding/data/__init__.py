"""Images and data sets: from files, folders, arrays and archives to tensors."""
