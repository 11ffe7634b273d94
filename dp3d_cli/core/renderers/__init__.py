"""Where camera-condition images come from: pictures of *another* subject seen from each target camera."""
