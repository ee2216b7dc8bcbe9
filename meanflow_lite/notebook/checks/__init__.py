"""The exercises of each chapter: right answers, the mistakes people make, and what to say."""
