"""Files of photographs: pixels and what is stored beside them, of one or several pages."""
