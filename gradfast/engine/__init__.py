"""The engine: one forward pass recorded by autograd, then all contrast rows back-propagated together.

``plan`` decides once per recorded graph what happens at each operand and which positions belong to which sample,
``backward`` carries the cotangents of all rows through the graph, ``collect`` turns each parameter's uses into norms, dot
products or Gram matrices, and ``run`` drives chunks of samples and rows.
"""
