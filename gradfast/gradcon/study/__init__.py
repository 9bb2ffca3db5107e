"""One-class studies: the tutorial's table, on CIFAR-10, MNIST and Fashion-MNIST."""
