"""Methods x seeds on the same images, measured on the same clock; the published claims, judged."""
