"""A first lesson: pictures, words and sounds made by this project, and a device that learns them."""
