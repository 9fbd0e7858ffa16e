"""The installed model: bundle, graphs and the runtimes that execute them."""
