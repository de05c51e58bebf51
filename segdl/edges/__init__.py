"""Acts: each module here touches one outside thing."""
