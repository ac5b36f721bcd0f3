"""Recording of agents that call tools and models: `trajrec.episode`."""
