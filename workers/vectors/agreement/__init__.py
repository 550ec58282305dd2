"""How far vectors agree with what people have said of the texts: graded pairs, classes as clusters, tagged spans."""
