"""Parts of the experiment that distils a language model into a shallow one."""
