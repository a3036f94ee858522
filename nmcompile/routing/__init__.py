"""A network, images, budgets -> nested levels of one set of weights, and a head that picks one."""
