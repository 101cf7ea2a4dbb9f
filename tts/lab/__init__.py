"""The lab: small models that come with the library, the engine that runs them in this process, and their tasks."""
